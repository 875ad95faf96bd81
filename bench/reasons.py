"""Why ours takes longer than a peer's, where it does: by counted bytes and flops, or by the HLO."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bench.rows import Row

SLOWER = 1.05  # the interval's lower end
# "suite: row: who", as a pattern, and the reason; the first that fits is the one
REASONS: dict[str, str] = {
    r"pointwise: \w+, \w+ bfloat16, \w+: torch": (
        "every step of torch is rounded to bfloat16; ours widens once, and rounds once at the end"
    ),
    r"pointwise: cosine_similarity, 1M .*torch": (
        "vectors are made nearly 1 long first, so that no square overflows, and each slope is "
        "freed of its own rounding: two passes more over each vector (HLO)"
    ),
    r"pointwise: squared_logarithmic_error.*keras": (
        "log(x + 1) of theirs has no digits of a small x; ours is log1p, a longer polynomial"
    ),
    r"pointwise: (hinge|perceptron)_loss.*optax": (
        "a NaN score shows: in theirs XLA's maximum loses it; one sign more for each element"
    ),
    r"pointwise: binary_cross_entropy, 1M .*keras": (
        "0 · log 0 is 0 and a probability outside of [0, 1] is NaN, by selects; theirs clips at "
        "1e-7"
    ),
    r"pointwise: l2_loss.*optax": (
        "e·(e/2) is finite where e² is not; as many operations, but XLA's kernel (YNN, in the HLO) "
        "is quicker at a square than at a product"
    ),
    r"pointwise: huber_loss.*forward": "the form that is exact at the bend has more operations",
    r"pointwise: smooth_l1_loss, 1M": (
        "in the cache operations bind, of which the form that is exact at the bend has more"
    ),
    r"pointwise: multiclass_perceptron_loss.*forward": (
        "the best of the other classes is told by its index (in the HLO, iota_reduce_fusion), so "
        "that its slope needs no comparison; theirs is a maximum"
    ),
    r"pointwise: poisson_nll_loss, 1M": "in the cache torch's loop is quicker",
    r"classes: .*bfloat16, \w+: torch": (
        "every step of torch is rounded to bfloat16; ours widens once, and rounds once at the end"
    ),
    r"classes: softmax_cross_entropy, .*forward": (
        "a confident row keeps its digits, an absent class with target 0 costs 0 and a NaN shows: "
        "thirteen operations more for each class, within the one fusion (HLO)"
    ),
    r"classes: (softmax_cross_entropy|poly_loss_cross_entropy), ": (
        "the largest class is told by its index, so that a confident row keeps its digits: one "
        "pass more, over single numbers (in the HLO, iota_reduce_fusion), and selects, which XLA "
        "stores"
    ),
    r"classes: softmax_cross_entropy_with_integer_labels.*forward": (
        "the label is left out of the sum by its index, so that a confident row keeps its digits: "
        "five operations more for each class (HLO)"
    ),
    r"classes: softmax_cross_entropy_with_integer_labels": (
        "the label's share is replaced by a select, so that a confident row keeps its digits, and "
        "its slope by another instead of a scatter (HLO)"
    ),
    r"classes: kl_divergence": (
        "0 · log 0, an absent class and a NaN are told by arithmetic: eight operations more for "
        "each class, within the one fusion of the sum (HLO)"
    ),
    r"structured: ranking_softmax_loss": "as of softmax_cross_entropy, the index of the largest",
    r"structured: ctc_loss .*forward": (
        "every step takes off the largest logarithm, so that long sequences keep their digits: its "
        "loop has 11 kernels, and theirs 8 (HLO)"
    ),
    r"structured: circle_loss .*forward": (
        "three arrays of all pairs are stored, and two of theirs (HLO): the third is the largest "
        "float, which bounds an infinite similarity in two sums of exponentials"
    ),
    r"structured: triplet_margin_loss .*forward": (
        "whether a square overflowed or vanished is asked first, of the sums, which are stored"
    ),
    r"structured: triplet_margin_loss .*value_and_grad": (
        "no square overflows or vanishes: three passes more over each difference, for its largest "
        "entry, its least, and its shares of the larger (HLO)"
    ),
    r"structured: dice_loss": (
        "a share and what it lacks of 1 are both exact, and so are their slopes: the largest class "
        "is told by its index, and left out of sums by selects, which XLA stores (HLO)"
    ),
    r"structured: binary_dice_loss": (
        "a share and what it lacks of 1 are two sigmoids, each exact and each stored (HLO); theirs "
        "is one"
    ),
    r"startup: import and first step": (
        "its import, `init`, and what the step counts: of CPU time 38, 68 and 70 ms where these "
        "were told apart"
    ),
    r"startup: .*compiling": (
        "what is right at every edge is more kernels or longer ones, and XLA's work on these is "
        "most of the time; the row counts the equations, which are traced in the rest"
    ),
    r"fused: linear head in 40 MiB": (
        "few tokens at a time: for each of these the head is read twice, and its gradient read and "
        "written, of 62.5 MiB each"
    ),
    r"fused: clip_loss, .*everything at once": (
        "the own pair is left out of the sums of its row and its column, so that a confident pair "
        "keeps its digits: two masks, and six exponentials for two (HLO); as many products"
    ),
    r"fused: linear head tiles": "the least memory multiplies four times, and theirs three times",
    r"fused: linear head, .*bfloat16.*: optax": (
        "a processor without products of bfloat16: XLA widens both operands of every product, ours "
        "of each chunk of tokens again (256 tokens' scores: 113 ms, of float32 80)"
    ),
    r"fused: linear head, .*bfloat16.*: torch": (
        "torch's products of bfloat16 are its own, and quicker than XLA's"
    ),
    r"step: .*tiny model.*by hand": (
        "the programs are one (46 kernels, the same bytes); a state of named parts takes a few "
        "µs more of Python to take apart and to make again"
    ),
    r"step: .*flax": (
        "it returns the loss alone; ours also counts, and tells the length of the gradient: of the "
        "medium model 99 MB are read and written, and 86 MB by theirs"
    ),
}


def slower(row: Row) -> Iterator[tuple[str, str]]:
    """The peers that ours takes longer than, beyond noise, and why; "" is not known."""
    for who in row.contenders:
        ratio = row.ratio(who)
        if ratio and ratio.low > SLOWER:
            yield who, reason(row, who)


def reason(row: Row, who: str) -> str:
    key = f"{row.suite}: {row.name}: {who}"
    return next((why for pattern, why in REASONS.items() if re.search(pattern, key)), "")
