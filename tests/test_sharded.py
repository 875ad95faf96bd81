"""Classes that are spread over devices: the loss and the gradients of one device that has all."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from test_schedules import error, everywhere, largest

import jaxloss
from jaxloss.core.numerics import wide
from jaxloss.fused import Plan

TOKENS, FEATURES, CLASSES = 16, 5, 24
MESHES = [(1, 8), (2, 4), (8, 1)]
HEAD, DENSE = jaxloss.sharded_linear_softmax_cross_entropy, jaxloss.sharded_softmax_cross_entropy


@functools.cache
def data():
    """Logits of both scales, an absent class, and a shard of tokens of which nothing is left."""
    rng = np.random.default_rng(0)
    h, w = rng.normal(size=(TOKENS, FEATURES)), rng.normal(size=(FEATURES, CLASSES))
    bias, labels = rng.normal(size=CLASSES), rng.integers(CLASSES, size=TOKENS)
    h[::2] *= 0.05
    bias[3], labels[labels == 3] = -np.inf, 4
    where = rng.random(TOKENS) < 0.7
    where[2:4], labels[2] = False, -100
    numbers = h, w, bias, rng.exponential(size=CLASSES), rng.exponential(size=TOKENS)
    return (*(np.asarray(a, np.float32) for a in numbers), np.float32(1.3)), labels, where


def of_head(loss, labels, where, h, w, bias, c, weights, t, **keywords):
    options = {"label_smoothing": 0.1 * t, "z_loss": 0.01 * t, "logit_softcap": 4 * t}
    options |= {"bias": bias, "class_weights": c, "temperature": t, "weights": weights}
    return loss(h, w, labels, where=where, **options, **keywords)


def of_logits(loss, labels, where, h, w, bias, c, weights, t, **keywords):
    options = {"label_smoothing": 0.1 * t, "z_loss": 0.01 * t, "logit_softcap": 4 * t}
    x = jnp.matmul(h, w)
    x = x + bias.reshape(*[1] * labels.ndim, -1)
    return loss(x, labels, where=where, class_weights=c, weights=weights, **options, **keywords)


CALLS = {
    "logits": (of_logits, jaxloss.softmax_cross_entropy_with_integer_labels, DENSE, {}),
    "plain": (of_head, jaxloss.linear_softmax_cross_entropy, HEAD, {"schedule": "plain"}),
    "tiles": (
        of_head,
        jaxloss.linear_softmax_cross_entropy,
        HEAD,
        {"schedule": Plan("tiles", 3, 2)},
    ),
}
OF_INDICES = [
    "softmax_cross_entropy_with_integer_labels",
    "multiclass_hinge_loss",
    "multiclass_perceptron_loss",
    "multi_margin_loss",
]
OF_DISTRIBUTIONS = [
    "softmax_cross_entropy",
    "poly_loss_cross_entropy",
    "softmax_focal_loss",
    "sigmoid_binary_cross_entropy",
    "distillation_loss",
    "dice_loss",
]
SPECS = P("data", None), P(None, "model"), P("model"), P("model"), P("data"), P()


def mesh_of(shape, kind=AxisType.Auto):
    return jax.make_mesh(shape, ("data", "model"), axis_types=(kind, kind))


def close(got, want, tolerance=1e-6):
    for each, wanted in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        size = np.abs(wanted).max()
        np.testing.assert_allclose(each, wanted, rtol=0, atol=tolerance * max(size, 1e-3))


@functools.cache
def single(name):
    call, loss, _, _ = CALLS[name]
    numbers, labels, where = data()
    f = functools.partial(call, loss, labels, where)
    return jax.jit(jax.value_and_grad(f, argnums=range(6)))(*numbers)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("shape", MESHES, ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_it_is_the_loss_of_one_device(name, shape, kind):
    call, _, loss, options = CALLS[name]
    numbers, labels, where = data()
    mesh = mesh_of(shape, kind)
    axes = {"data_axis": "data", "class_axis": "model"} if kind is AxisType.Auto else {}
    placed = [
        jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip(numbers, SPECS, strict=True)
    ]
    with jax.set_mesh(mesh):
        f = functools.partial(call, loss, labels, where, **axes, **options)
        got = jax.jit(jax.value_and_grad(f, argnums=range(6)))(*placed)
    close(got, single(name))


@pytest.mark.parametrize("split", [(P("data"), P("data")), (P("data"), P()), (P(), P("data"))])
@pytest.mark.parametrize("schedule", ["plain", "tokens", "classes", "tiles"])
def test_every_schedule_of_rows_that_devices_share(schedule, split, rng):
    """The rows of hidden states and labels may be split unlike; those of hidden decide."""
    hidden, head = (rng.normal(size=s).astype(np.float32) for s in ((16, 4), (4, 8)))
    labels, mesh = rng.integers(8, size=16), mesh_of((2, 4), AxisType.Explicit)
    f = functools.partial(jaxloss.linear_softmax_cross_entropy, schedule=schedule)
    want = jax.jit(jax.value_and_grad(f, (0, 1)))(hidden, head, labels)
    with jax.set_mesh(mesh):
        h, y = (jax.device_put(a, s) for a, s in zip((hidden, labels), split, strict=True))
        for of_head in (P(), P(None, "model")):
            w = jax.device_put(head, of_head)
            close(jax.jit(jax.value_and_grad(f, (0, 1)))(h, w, y), want)
            weights = functools.partial(f, class_weights=2.0, reduction="sum")
            close(jax.jit(weights)(h, w, y), 32 * want[0])


@pytest.mark.parametrize("name", OF_INDICES + OF_DISTRIBUTIONS)
def test_classes_that_devices_share(name, rng):
    """On an explicit mesh, with no word about it: what picks a class by its index included."""
    loss = getattr(jaxloss, name)
    logits = rng.normal(size=(TOKENS, CLASSES)).astype(np.float32)
    targets = rng.dirichlet(np.ones(CLASSES), size=TOKENS).astype(np.float32)
    if name in OF_INDICES:
        targets, logits[:, 3] = np.arange(TOKENS) % 3, -np.inf
    f = functools.partial(loss, reduction="sum")
    want = jax.jit(jax.value_and_grad(f))(logits, targets)
    mesh = mesh_of((2, 4), AxisType.Explicit)
    with jax.set_mesh(mesh):
        x = jax.device_put(logits, P("data", "model"))
        y = jax.device_put(targets, P("data", "model") if np.ndim(targets) > 1 else P("data"))
        got = jax.jit(jax.value_and_grad(f))(x, y)
    close(got, want, 2e-6)
    assert jax.typeof(got[1]).sharding.spec == P("data", "model")


def test_on_an_explicit_mesh_optax_raises_where_it_works():
    """A gather of labels out of classes that are spread has no sharding that JAX could tell."""
    mesh = mesh_of((2, 4), AxisType.Explicit)
    x = jnp.zeros((TOKENS, CLASSES), device=NamedSharding(mesh, P("data", "model")))
    labels = jax.device_put(np.zeros(TOKENS, int), NamedSharding(mesh, P("data")))
    with jax.set_mesh(mesh):
        with pytest.raises(Exception, match="out sharding could not be resolved"):
            jax.eval_shape(optax.losses.softmax_cross_entropy_with_integer_labels, x, labels)
        assert jax.eval_shape(DENSE, x, labels).shape == ()


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("name", CALLS)
def test_inside_of_shard_map(name, check_vma):
    """Of each device's part: the mean over all, and what `pmean` makes of the gradients."""
    call, _, loss, options = CALLS[name]
    numbers, labels, where = data()
    axes = {"data_axis": "data", "class_axis": "model"}

    def local(labels, where, *numbers):
        f = functools.partial(call, loss, labels, where, **axes, **options)
        value, grads = jax.value_and_grad(f, argnums=(0, 1, 2, 3))(*numbers)
        if not check_vma:
            h, *others = grads
            h = jax.lax.psum(h, "model") if call is of_logits else h  # the user's own product
            grads = h / 2, *(jax.lax.pmean(g, "data") for g in others)
        return value, grads

    mapped = jax.shard_map(
        local,
        mesh=mesh_of((2, 4)),
        in_specs=(P("data"), P("data"), *SPECS),
        out_specs=(P(), SPECS[:4]),
        check_vma=check_vma,
    )
    value, grads = single(name)
    close(jax.jit(mapped)(labels, where, *numbers), (value, grads[:4]))


@pytest.mark.parametrize("name", CALLS)
def test_every_reduction(name):
    call, one, many, options = CALLS[name]
    (h, w, *numbers), labels, where = data()
    options = {**options, "mesh": mesh_of((2, 4)), "data_axis": "data", "class_axis": "model"}

    def of(loss, **options):
        reductions = ("sum", None, jaxloss.stats, jaxloss.unit_mean)
        f = functools.partial(call, loss, labels, where, **options)
        return jax.jit(lambda *a: [f(*a, reduction=each) for each in reductions])(h, w, *numbers)

    close(of(many, **options), of(one))


@pytest.mark.parametrize("name", ["logits", "tiles"])
def test_a_label_out_of_range_is_nan_and_reaches_no_other(name):
    call, _, loss, options = CALLS[name]
    numbers, labels, where = data()
    axes = {"mesh": mesh_of((2, 4)), "data_axis": "data", "class_axis": "model"}
    labels = labels.copy()
    labels[5], labels[6], where = CLASSES, -1, np.ones(TOKENS, bool)
    labels[2] = 0
    f = functools.partial(call, loss, labels, where, reduction=None, **axes, **options)

    @jax.jit
    def both(h):
        values, pull = jax.vjp(lambda h: f(h, *numbers[1:]), h)
        return values, *pull(jnp.ones(TOKENS))

    values, grad = both(numbers[0])
    bad = np.isin(np.arange(TOKENS), (5, 6))
    np.testing.assert_array_equal(np.isnan(values), bad)
    np.testing.assert_array_equal(np.isnan(grad), np.broadcast_to(bad[:, None], grad.shape))


def collectives(text):
    """(kind, shape) of each, per device; one that is of several arrays is each of them."""
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    found = re.findall(rf" = (.+?) ({kinds})(?:-start)?\(", text)
    return {(kind, s) for shapes, kind in found for s in re.findall(r"\w+\[([\d,]*)\]", shapes)}


def test_only_vectors_and_sums_of_gradients_travel():
    """And of the scores of 64 tokens and 4,096 classes, no device has more than a tile."""
    n, d, v = 64, 8, 4096
    axes = {"mesh": mesh_of((2, 4)), "data_axis": "data", "class_axis": "model"}
    how = Plan("tiles", 8, 64)

    def f(h, w, bias, labels):
        return HEAD(h, w, labels, bias=bias, label_smoothing=0.1, schedule=how, **axes)

    shapes = [((n, d), SPECS[0]), ((d, v), SPECS[1]), ((v,), SPECS[2])]
    arrays = [
        jax.ShapeDtypeStruct(s, jnp.float32, sharding=NamedSharding(axes["mesh"], spec))
        for s, spec in shapes
    ]
    labels = jax.ShapeDtypeStruct((n,), jnp.int32, sharding=NamedSharding(axes["mesh"], P("data")))
    places = tuple(a.sharding for a in arrays)
    grad = jax.jit(jax.grad(f, (0, 1, 2)), out_shardings=places)
    text = str(grad.lower(*arrays, labels).compile().as_text())
    found = collectives(text)
    assert {kind for kind, _ in found} == {"all-reduce"}
    vectors = {"", "1", f"{n // 2}", f"{n // 2},{d}", f"{d},{v // 4}", f"{v // 4}"}
    assert {shape for _, shape in found} <= vectors, found
    sizes = [np.prod([*map(int, s.split(","))]) for s in re.findall(r"f32\[([\d,]+)\]", text)]
    assert max(sizes) <= max(d * v // 4, n // 2 * 64)


def test_no_device_has_a_quarter_of_its_scores():
    """Of any option's value or gradient, under jit, vmap, scan and remat."""
    n, d, v = 64, 4, 4096
    mesh = mesh_of((2, 4))
    axes = {"mesh": mesh, "data_axis": "data", "class_axis": "model"}

    def loss(reduction, floats, others, shared):
        (h, weights), (labels, where), (w, bias, c, t) = floats, others, shared
        how = {"schedule": Plan("tiles", 8, 64), "reduction": reduction, **axes}
        return jnp.sum(of_head(HEAD, labels, where, h, w, bias, c, weights, t, **how))

    def array(spec, *shape, dtype=jnp.float32):
        return jnp.zeros(shape, dtype, device=NamedSharding(mesh, P(*spec)))

    rows, model = (None, "data"), ("model",)
    floats = array(rows, 2, n, d), array(rows, 2, n)
    others = array(rows, 2, n, dtype=int), array(rows, 2, n, dtype=bool)
    shared = array((None, "model"), d, v), array(model, v), array(model, v), array((), dtype=float)
    assert largest(everywhere(loss, floats, others, shared)) < 2 * (n // 2) * (v // 4) / 4


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("call", [of_logits, of_head], ids=["logits", "head"])
def test_units_may_have_several_axes(call, kind):
    """`data_axis` spreads the first of them."""
    (h, w, *rest), labels, where = data()
    units = (8, TOKENS // 8)
    numbers = h.reshape(*units, -1), w, *rest[:2], rest[2].reshape(units), rest[3]
    plain, loss = (CALLS["logits" if call is of_logits else "plain"][i] for i in (1, 2))
    f = functools.partial(call, plain, labels.reshape(units), where.reshape(units))
    want = jax.jit(jax.value_and_grad(f, argnums=range(6)))(*numbers)
    with jax.set_mesh(mesh_of((2, 4), kind)):
        axes = {"data_axis": "data", "class_axis": "model"}
        f = functools.partial(call, loss, labels.reshape(units), where.reshape(units), **axes)
        close(jax.jit(jax.value_and_grad(f, argnums=range(6)))(*numbers), want)


def test_half_precision_beside_another_axis(rng):
    """XLA on CPU aborted at a sum of bfloat16 over some of the axes of a mesh."""
    h, w = (jnp.asarray(rng.normal(size=s), jnp.bfloat16) for s in ((8, 16), (16, 16)))
    y = rng.integers(16, size=8)
    want = jax.grad(jaxloss.linear_softmax_cross_entropy, (0, 1))(h, w, y)
    with jax.set_mesh(mesh_of((2, 4))):
        f = functools.partial(HEAD, class_axis="model")
        for got, wanted in zip(jax.jit(jax.grad(f, (0, 1)))(h, w, y), want, strict=True):
            got, wanted = (np.asarray(a, np.float32) for a in (got, wanted))
            assert np.linalg.norm(got - wanted) <= 4e-3 * np.linalg.norm(wanted)


@pytest.mark.parametrize("shape", MESHES, ids=str)
@pytest.mark.parametrize("schedule", ["plain", Plan("tiles", 8, 64)], ids=["plain", "tiles"])
def test_half_gradients_lose_what_rounding_once_does(schedule, shape, rng):
    """Of logits as at the start of a training, and at its end."""
    whole = jax.jit(jax.grad(jaxloss.linear_softmax_cross_entropy, (0, 1)))
    axes = {"mesh": mesh_of(shape), "data_axis": "data", "class_axis": "model"}
    split = jax.jit(jax.grad(functools.partial(HEAD, schedule=schedule, **axes), (0, 1)))
    # devices that share tokens add up what each has rounded of the head's gradient: in float32 it
    # would take twice the memory; so it is rounded twice, by √2 of once
    allowed = 1.2, 1.2 if shape[0] == 1 else 1.5
    for scale in (0.05, 8):
        floats = rng.normal(size=(64, 16)), rng.normal(size=(16, 4096)) * scale / 4
        h, w = (jnp.asarray(a, jnp.bfloat16) for a in floats)
        y = rng.integers(4096, size=64)
        exact = whole(wide(h), wide(w), y)
        for grad, want, most in zip(split(h, w, y), exact, allowed, strict=True):
            assert grad.dtype == jnp.bfloat16
            assert error(grad, want) <= most * error(want.astype(jnp.bfloat16), want), scale


@pytest.mark.parametrize("schedule", ["plain", "tokens", "classes"])
@pytest.mark.parametrize("of_hidden", [P("data"), P(("data", "model")), P("data", None, "model")])
def test_a_head_may_be_split_over_the_axes_of_the_units(schedule, of_hidden, rng):
    """As FSDP leaves it, on an explicit mesh: it is made whole, and so are bias and weights."""
    h, w = (rng.normal(size=s).astype(np.float32) for s in ((8, 2, 4), (4, 16)))
    b, y = rng.normal(size=16).astype(np.float32), rng.integers(16, size=(8, 2))

    def loss(h, w, b, y):
        f = functools.partial(jaxloss.linear_softmax_cross_entropy, schedule=schedule)
        return f(h, w, y, bias=b, class_weights=jnp.exp(b))

    gradient = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
    want = gradient(h, w, b, y)
    with jax.set_mesh(mesh_of((2, 4), AxisType.Explicit)):
        y = jax.device_put(y, P(of_hidden[0]))
        for of_head, of_bias in ((P("data"), P()), (P(None, "data"), P("data")), (P("model"), P())):
            placed = map(jax.device_put, (h, w, b), (of_hidden, of_head, of_bias))
            close(gradient(*placed, y), want)


def test_units_whose_first_axis_is_whole_are_not_gone_through_in_parts(rng):
    h, w = (rng.normal(size=s).astype(np.float32) for s in ((2, 8, 4), (4, 16)))
    y = rng.integers(16, size=(2, 8))
    with jax.set_mesh(mesh_of((2, 4), AxisType.Explicit)):
        h, y = jax.device_put(h, P(None, "data")), jax.device_put(y, P(None, "data"))
        f = functools.partial(jaxloss.linear_softmax_cross_entropy, h, w, y)
        assert np.isfinite(f(schedule="plain"))
        for schedule in ("tokens", "classes", "tiles"):
            with pytest.raises(ValueError, match=r"units that are split as .*reshard them"):
                f(schedule=schedule)


def test_what_is_deleted_may_have_an_absent_label():
    """A padding token whose class is absent too; weights and smoothing are not NaN by it."""
    h, w = jnp.ones((2, 3)), jnp.arange(24.0).reshape(3, 8) / 24
    bias, labels, where = jnp.zeros(8).at[0].set(-jnp.inf), jnp.array([0, 2]), jnp.array([0, 1]) > 0

    def loss(c, smoothing, t, of=jaxloss.linear_softmax_cross_entropy, at=slice(None), **options):
        options |= {"class_weights": c, "label_smoothing": smoothing, "temperature": t}
        return of(h[at], w, labels[at], where=where[at], bias=bias, **options)

    def gradient(**how):
        given = jnp.ones(8), jnp.float32(0.1), jnp.float32(1)
        return jax.jit(jax.value_and_grad(functools.partial(loss, **how), (0, 1, 2)))(*given)

    want = gradient(at=slice(1, 2), schedule="plain")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(want))
    for schedule in ("plain", "tokens", "classes", "tiles"):
        close(gradient(schedule=schedule), want)
    with jax.set_mesh(mesh_of((2, 4))):
        close(gradient(of=HEAD, class_axis="model"), want)


def test_what_is_wrong_is_said():
    (h, w, *_), labels, _ = data()
    with pytest.raises(ValueError, match=r"must be different axes of the mesh, and \['model'\]"):
        HEAD(h, w, labels, mesh=mesh_of((2, 4)), data_axis="model", class_axis="model")
    with pytest.raises(ValueError, match="data_axis needs units to spread"):
        HEAD(h[0], w, labels[0], mesh=mesh_of((2, 4)), data_axis="data", class_axis="model")
    with pytest.raises(ValueError, match="class_axis must name the axes of the mesh"):
        HEAD(h, w, labels)
    with pytest.raises(ValueError, match=r"the mesh must have the axes \['model'\]"):
        HEAD(h, w, labels, class_axis="model")
    axes = {"mesh": mesh_of((2, 4)), "class_axis": "model"}
    with pytest.raises(ValueError, match="'classes' or 'tiles', got 'tokens'"):
        HEAD(h, w, labels, schedule="tokens", **axes)
    with pytest.raises(ValueError, match="the devices of 'model' are 4"):
        HEAD(h, w[:, :22], labels % 22, **axes)
