"""The bench measures what it says: planted errors come out at their size, bad input is counted."""

import ast
import dataclasses
import mmap
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from harness import CASES
from rich.console import Console

import jaxloss
from bench import __main__ as bench
from bench import accuracy, compare, faults, machine, measure, oracles, plots, readme, show
from bench.exact import digits, numpy_of_objects
from bench.measure import Ratio, busy, compiled, device_seconds, peak_increase
from bench.registry import case_of, contenders, without
from bench.rows import Measured, Results, Row, Work, fraction, limits, too_fast
from bench.suites import NAMES, pointwise, scaling, sharded, startup, suite
from bench.workload import Contender, Options, Workload, row_of


def row(loss):
    return next(case for case in CASES if case.loss is loss and not case.options)


def instead(case, loss):
    return dataclasses.replace(case, loss=loss)


def test_numpy_computes_with_many_digits(rng):
    x = rng.normal(size=(5, 3))
    with numpy_of_objects():
        exact = np.log1p(np.exp(np.where(x > 0, digits(x), 1))).sum(-1)
    with mpmath.workdps(120):
        for got, numbers in zip(exact, x, strict=True):
            want = sum(mpmath.log1p(mpmath.exp(n if n > 0 else 1)) for n in map(float, numbers))
            assert abs(mpmath.mpf(str(got)) - want) < 1e-100
    third = digits(np.ones(1)) / 3 - np.ones(1) / 3
    assert 1e-18 < abs(third[0]) < 1e-16
    assert digits(np.array(np.inf))[()] * 0 == 0
    with pytest.raises(TypeError):
        _ = third + np.ones(1, np.longdouble)


@pytest.mark.parametrize("count", [1, 2, 5, 8, 24])
def test_no_two_inputs_cancel_in_every_row_of_signs(rng, count):
    signs = accuracy.signs(count, rng)
    products = np.abs(signs.T @ signs)
    assert set(np.unique(signs)) <= {-1, 1}
    assert (products[~np.eye(count, dtype=bool)] < len(signs)).all()


@pytest.mark.parametrize("eps", [3, 30])
def test_a_planted_error_has_its_size(eps):
    """A loss that is off by some eps, and whose gradient is."""

    def off(predictions, targets, **keywords):
        factor = 1 + eps * np.finfo(np.float32).eps
        return factor * jaxloss.absolute_error(predictions, targets, **keywords)

    case = row(jaxloss.absolute_error)
    right, wrong = (
        accuracy.measure(each, {"us": (oracles.callers(each, {})["jaxloss"], 1)}, "float32", 40)[
            "us"
        ]
        for each in (case, instead(case, off))
    )
    assert right.points == wrong.points == 40
    assert max(right.value) < 1 and max(right.gradient) < 1e-60
    assert eps / 2 < max(wrong.value) < eps + 2  # relative to a scale of up to twice the value
    assert eps - 1 < min(wrong.gradient) <= max(wrong.gradient) < eps + 1


def test_bad_input_is_counted():
    """Of a loss that broadcasts, overflows, has no derivative at 0 and multiplies by its mask."""

    def careless(predictions, targets, *, where=None, reduction="mean", **rest):
        values = jnp.sqrt((predictions - targets) ** 2)
        mask = 1.0 if where is None else where.astype(jnp.float32)
        return values if reduction is None else jnp.mean(values * mask)

    careful = row(jaxloss.absolute_error)
    case = instead(careful, careless)
    for wanted, of in (("0", careful), ("many", case)):
        for count in (
            faults.not_finite(of, oracles.callers(of, {}), jnp.float32),
            faults.misused(of, {}),
            faults.polluted(of, oracles.callers(of, {})),
        ):
            found, every = map(int, count["jaxloss"].split(" / "))
            assert every >= 3 and (found == 0) == (wanted == "0"), (wanted, count)


def test_the_report_has_every_dtype_and_peer(tmp_path):
    out = tmp_path / "accuracy.md"
    accuracy.report([row(jaxloss.l2_loss)], 12, ("optax",), out, Console(quiet=True))
    text = out.read_text()
    for name in accuracy.DTYPES:
        table = text.split(f"## {name}\n")[1].split("\n## ")[0]
        assert [line.split(" | ")[1] for line in table.splitlines()[3:] if line] == [
            "jaxloss",
            "optax",
        ]
    assert "## bad input" in text and list(tmp_path.iterdir()) == [out]


def test_peers_are_called_with_the_options_of_the_row():
    for case in CASES:
        for line in oracles.lines_of(case, ("optax",)).values():
            assert set(case.options) <= set(line.options)


QUICK = Options(quick=True, rounds=5)


def of_rounds(*rounds):
    """A row of ours at 2 ms and a peer at these, with noise, and bytes that take at most 1 ms."""
    noise = 1 + 0.01 * np.sin(np.arange(15))
    found = {f"peer {t}": Measured(list(1e-3 * t * noise)) for t in rounds}
    ours = Measured(list(2e-3 * noise), temporaries=2**20)
    return Row("suite", "name", {"jaxloss": ours, **found}, Work(read=1e6))


def a_run(*rows):
    machine = {"device": "a machine", "cores": 2, "load before": 0, "versions": {}, "python": "3"}
    return Results({**machine, "date": "today", "command": "python -m bench"}, list(rows))


def test_a_ratio_has_an_interval():
    rng = np.random.default_rng(1)
    apart = [Ratio.of(1 + 0.1 * rng.random(15), 2 + 0.2 * rng.random(15)) for _ in range(20)]
    assert all(r.low <= r.middle <= r.high < 0.6 and not r.even() for r in apart)
    same = [Ratio.of(1 + 0.1 * rng.random(15), 1 + 0.1 * rng.random(15)) for _ in range(40)]
    assert sum(r.even() for r in same) >= 32
    load = 1 + 10 * rng.random(15)  # what slows both in a round is no doubt of the ratio
    assert Ratio.of(load, 2 * load) == Ratio(0.5, 0.5, 0.5)
    assert Ratio(1.0, 0.9, 1.02).meets(1.0) and not Ratio(1.0, 0.9, 1.04).meets(1.0)
    assert str(Ratio(1.0, 0.9, 1.1)) == "even, 1.00 [0.90, 1.10]"


def test_planted_peers_are_found():
    """A wrong one is told and not timed, a slow one is slow, one that is not there is a line."""

    def slow(x):
        return jnp.sum(x) + 0 * jnp.sum(jnp.linalg.inv(jnp.eye(300) + 0 * x[0]))

    def broken(x):
        raise TypeError("no such thing")

    every = {
        "jaxloss": Contender("jaxloss", jnp.sum),
        "slow": Contender("optax", slow),
        "wrong": Contender("baseline", lambda x: 1.01 * jnp.sum(x)),
        "absent": Contender("nobody", jnp.sum),
        "broken": Contender("optax", broken),
        "not chosen": Contender("keras", jnp.sum),
    }
    workload = Workload(
        suite="planted",
        name="planted",
        arrays=lambda rng: (rng.random(8),),
        contenders=every,
        gradients=(0,),
        bounds={"slow time": 1e-9, "wrong time": 1.0, "slow memory": 2.0},
    )
    found = row_of(workload, Options(rounds=5, peers=("optax", "nobody")))
    assert list(found.contenders) == ["jaxloss", "slow", "wrong", "absent", "broken"]
    assert found.contenders["wrong"].note.startswith("wrong: apart by")
    assert not found.contenders["wrong"].seconds and len(found.ours.seconds) == 5
    assert found.contenders["absent"].note == "not installed"
    assert found.contenders["broken"].note == "cannot: TypeError: no such thing"
    assert (found.ratio("slow") or Ratio(1, 1, 1)).high < 1
    assert [miss.split(" ")[0] for miss in found.misses()] == ["time"]


@pytest.mark.parametrize(
    "error, line",
    [
        (TypeError("no halves\nand more"), "cannot: TypeError: no halves"),
        (AssertionError(), "cannot: AssertionError: "),
    ],
)
def test_a_peer_that_fails_when_it_is_called_is_a_line(error, line):
    """As torch's kernels do that have no halves; an error may say nothing."""

    def fails():
        raise error

    made = {
        "ours": compiled(jnp.sum, jnp.zeros(8)),
        "peer": measure.Program(fails, lambda value: []),
    }
    measure.alternate(made, 2, 0.0)
    assert made["peer"].wrong == line
    assert len(made["ours"].seconds) == 2 and not made["peer"].seconds


def test_what_takes_endless_is_called_once(monkeypatch):
    """Where a machine has no products of halves, a peer's may take a minute each."""
    arrays = (jnp.zeros(8),)
    made = {name: compiled(jnp.sum, *arrays) for name in ("ours", "quick", "endless")}
    monkeypatch.setattr(measure, "ENDLESS", 0.0)
    clock = iter([0, 1, 1, 10, 10, 21])  # before and after one call of each
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    measure.check(made, 0.0)
    assert [made[name].wrong for name in made] == ["", "", "one call took 11 s: not timed"]


def test_machines_of_one_name_are_told_apart(tmp_path, monkeypatch):
    told = []
    for flags in ("fma avx2", "avx2 avx512f", "avx2 avx512_bf16 avx512f"):
        (tmp_path / "cpuinfo").write_text(f"model name\t: EPYC\nflags\t\t: {flags}\n")
        monkeypatch.setattr(machine, "PROCESSORS", tmp_path / "cpuinfo")
        told.append(machine.processor())
    assert told == ["EPYC, AVX2", "EPYC, AVX-512", "EPYC, AVX-512 with bfloat16"]


@pytest.mark.parametrize(
    "words, sentence",
    [
        ("nosuch", "there is no suite nosuch: it is one of limit,"),
        ("limit --device xpu", "invalid choice: 'xpu'"),
        ("limit --rounds 0", "must be a whole number of 1 or more, got 0"),
        ("limit --rounds x", "must be a whole number of 1 or more, got x"),
        ("accuracy --points -3", "must be a whole number of 1 or more, got -3"),
        ("limit --peers optax,nosuch", "There is no peer nosuch: it is one of optax,"),
        ("limit --json out.md", "--json out.md is where the report goes"),
        ("limit --json /proc/x/y.json", "y.json cannot be written: No such file or directory"),
        ("limit --json README.md/y.json", "README.md/y.json cannot be written:"),
        ("limit --plots README.md", "--plots README.md is a file"),
        ("compare no.json none.json", "there is no file no.json"),
        ("compare README.md README.md", "README.md holds no results of the bench"),
        ("readme nonsense", "unrecognized arguments: nonsense"),
    ],
)
def test_a_word_that_bench_does_not_know_is_a_sentence(words, sentence, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench", *words.split()])
    monkeypatch.chdir(readme.ROOT)
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(bench.main())
    assert ended.value.code == 2
    assert sentence in " ".join("".join(capsys.readouterr()).split())


@pytest.mark.parametrize("error", [RuntimeError, AssertionError])
def test_a_device_that_is_not_there_is_a_sentence(error, monkeypatch, capsys):
    def devices():
        raise error

    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr("jax.devices", devices)
    monkeypatch.setattr("sys.argv", ["bench", "limit", "--device", "gpu"])
    assert bench.main() == 2
    assert "JAX finds no gpu here" in capsys.readouterr().out


def test_no_loss_of_a_name_is_no_result():
    (none,) = suite("accuracy").rows(Options(losses="nosuch"))
    assert none.ours.note == "cannot: no loss has 'nosuch' in its name"


@pytest.mark.parametrize("more, code", [("", 1), (" --quick", 0)])
def test_a_rate_far_above_the_limit_is_told(more, code, monkeypatch, capsys):
    row = of_rounds(1.0)
    assert fraction(row, row.ours, limits([row])) == pytest.approx(0.5)
    rounds = Measured([5e-3, 1e-3, 5e-3])  # of a busy machine
    limit = dataclasses.replace(row, suite="limit", contenders={"XLA": rounds})
    double, triple = (
        dataclasses.replace(row, work=Work(n * row.work.read, n * row.work.written))
        for n in (1.9, 3)
    )
    assert [*too_fast([limit, row, double])] == []
    assert [*too_fast([limit, triple])] == [(triple, pytest.approx(3, rel=1e-2))]
    planted = SimpleNamespace(rows=lambda options: [limit, triple])
    monkeypatch.setattr("bench.suites.suite", lambda name: planted)
    monkeypatch.setattr("sys.argv", ["bench", "limit", *more.split()])
    assert bench.main() == code
    assert "name: 3.0 of the machine's limit: bytes or flops" in capsys.readouterr().out


def test_ours_must_be_finite_and_run():
    """Or there is nothing to compare with, and the row says so."""

    def raises():
        raise ValueError("no")

    for call, said in ((lambda: np.inf, "wrong: not finite"), (raises, "cannot: ValueError: no")):
        ours, peer = (
            measure.Program(call, lambda value: [np.asarray(value)]) for call in (call, lambda: 1.0)
        )
        measure.alternate({"ours": ours, "peer": peer}, 1, 1.0)
        assert ours.wrong == said and peer.wrong.startswith("not timed") and not peer.seconds
    measure.alternate({}, 1, 1.0)


def test_runs_that_cannot_be_compared(capsys):
    run = a_run(of_rounds(1.0))
    other = dataclasses.replace(run, machine={**run.machine, "device": "another"})
    for after in (other, a_run(dataclasses.replace(of_rounds(1.0), name="another"))):
        assert compare.main(run, after, Console(width=200)) == 2
    gone = of_rounds(1.0)
    gone.ours.seconds, gone.ours.note = [], "cannot: ValueError: no"
    assert compare.main(run, a_run(gone), Console(width=200)) == 1
    said = capsys.readouterr().out
    assert "The devices are two" in said and "no row in common" in said
    assert "name: no longer runs: cannot: ValueError: no" in said


def test_a_weight_of_1_for_every_label_is_not_given_to_a_peer():
    """torch multiplies by it, which takes half as long again."""
    called = ast.parse("entropy(x, y, pos_weight=c, p=n).mean()", mode="eval")
    assert ast.unparse(without(called, {"c"})) == "entropy(x, y, p=n).mean()"


@pytest.mark.parametrize("case", pointwise.cases(False), ids=str)
def test_inputs_have_no_ties_and_no_result_is_infinite(case, rng):
    """At a tie peers choose other slopes, and are not wrong; in halves too."""
    arrays = pointwise.arrays_of(case, 2**12, rng)
    for array, domain in zip(arrays, case.domains, strict=True):
        if array.dtype.kind == "f" and domain == "real":
            _, counts = np.unique(array, return_counts=True)
            assert counts.max() <= 2
    halves = [jnp.asarray(a, jnp.bfloat16 if a.dtype.kind == "f" else None) for a in arrays]
    value, grad = jax.value_and_grad(case.call)(*halves)
    assert np.isfinite(value) and np.isfinite(grad.astype(np.float32)).all()


def test_what_became_slower_is_said(tmp_path, capsys):
    """Beyond noise, and not what slowed the peer as well."""
    before, drifted, worse = of_rounds(4.0), of_rounds(4.0), of_rounds(2.0)
    for measured in drifted.contenders.values():
        measured.seconds = [3 * s for s in measured.seconds]
    worse.contenders = {"jaxloss": worse.ours, "peer 4.0": worse.contenders["peer 2.0"]}
    larger = of_rounds(4.0)
    larger.ours.temporaries = 2**24
    paths = [tmp_path / f"{i}.json" for i in range(4)]
    for path, row in zip(paths, (before, drifted, worse, larger), strict=True):
        a_run(row).save(path)
    assert Results.load(paths[0]).rows == [before]
    runs = list(map(Results.load, paths))
    codes = [compare.main(runs[0], each, Console(width=200)) for each in runs]
    assert codes == [0, 0, 1, 1]
    printed = capsys.readouterr().out
    assert "suite: name: 2.00 [2.00, 2.00] of the time before" in printed
    assert "suite: name: 16 MiB, before 1" in printed
    alone = dataclasses.replace(before, contenders={"jaxloss": before.ours})
    assert not list(compare.worse(a_run(alone), a_run(alone)))


def test_reports_and_pictures(tmp_path):
    row = dataclasses.replace(of_rounds(1.0, 2.0, 4.0), bounds={"peer 1.0 time": 1.5})
    growing = [dataclasses.replace(row, suite="scaling", name=f"rows: {n}") for n in (1, 4)]
    results = a_run(row, *growing)
    text = show.report(results)
    assert "| name | jaxloss | 2 |" in text and "even, 1.00 [1.00, 1.00]" in text
    assert "MISSED: time 2.00 [2.00, 2.00] of peer 1.0, bound 1.50" in text
    names = [path.name for path in plots.save(results, tmp_path)]
    assert names == ["ratios-suite.png", "ratios-scaling.png", "scaling.png", "roofline.png"]
    assert min(path.stat().st_size for path in tmp_path.iterdir()) > 4000


def test_the_readme_holds_what_the_results_say():
    text = (readme.ROOT / "README.md").read_text()
    assert readme.written(text) == text
    for name, report in readme.reports().items():
        assert (readme.RESULTS / f"{name}.md").read_text() == report


def test_every_suite_is_data():
    """Workloads have names of their own, ours first, and what a child process finds by name."""
    for name in NAMES:
        assert callable(suite(name).rows)
    for name in ("limit", "pointwise", "classes", "structured", "fused"):
        for quick in (True, False):
            made = list(suite(name).workloads(Options(quick=quick)))
            assert len({workload.name for workload in made}) == len(made)
            for workload in made:
                first = next(iter(workload.contenders.values()))
                assert first.peer == ("baseline" if name == "limit" else "jaxloss")
                known = {
                    f"{who} {what}" for who in workload.contenders for what in ("time", "memory")
                }
                assert set(workload.bounds) <= known, workload.name
    assert {"fused", "sharded"} <= set(NAMES) and sharded.placements()


def test_peers_agree_with_ours_before_they_are_timed():
    every = contenders(case_of("huber_loss"))
    assert {"jaxloss", "optax", "torch", "keras"} <= set(every)  # installed or not
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=32).astype(np.float32) for _ in range(2))
    assert float(every["optax"].f(x, y)) == pytest.approx(float(every["jaxloss"].f(x, y)), 1e-6)


def test_the_time_of_a_device():
    """Of a GPU's streams, whose events other lines repeat; a CPU has none."""

    def line(name, *durations):
        events = [SimpleNamespace(duration_ns=1e9 * seconds) for seconds in durations]
        return SimpleNamespace(name=name, events=events)

    host = SimpleNamespace(name="/host:CPU", lines=[line("python", 9)])
    gpu = [line("Stream #13(Compute)", 1, 2), line("Stream #14", 4), line("XLA Modules", 7)]
    tpu = [line("XLA Modules", 3), line("XLA Ops", 2, 1)]
    planes = [SimpleNamespace(name="/device:XPU:0", lines=lines) for lines in (gpu, tpu)]
    assert [busy([host, plane]) for plane in planes] == [7, 3] and busy([host]) is None
    assert device_seconds(lambda: None) is None


def test_small_measurements():
    assert scaling.slope([1, 2, 4], [3, 6, 12]) == pytest.approx(1)
    assert scaling.slope([1, 2, 4], [0, 6, 12]) == 0
    pages = mmap.mmap(-1, 2**25)  # of its own: an array could lie where a freed one was, unseen
    grown = peak_increase(lambda: pages.write(bytes(pages)))
    assert grown is None or grown > 2**24
    row = startup.compiling(case_of("squared_error"), QUICK)
    assert row.ours.figures["equations"] > 2 and len(row.ours.seconds) == 2
