"""The kind of target that each loss learns from.

A loss that is not here needs more than a table or a text holds: a teacher, a second view, masks.
"""

from __future__ import annotations

LEARNS = {
    "squared_error": "number",
    "l2_loss": "number",
    "absolute_error": "number",
    "root_mean_squared_error": "number",
    "huber_loss": "number",
    "smooth_l1_loss": "number",
    "log_cosh": "number",
    "quantile_loss": "number",
    "squared_logarithmic_error": "positive number",
    "absolute_percentage_error": "positive number",
    "gaussian_nll_loss": "number",
    "poisson_nll_loss": "count",
    "sigmoid_binary_cross_entropy": "bit",
    "binary_cross_entropy": "bit",
    "sparsemax_loss": "bit",
    "softmax_cross_entropy": "distribution",
    "softmax_cross_entropy_with_integer_labels": "class",
    "categorical_cross_entropy": "distribution",
    "nll_loss": "class",
    "poly_loss_cross_entropy": "distribution",
    "generalized_cross_entropy": "class",
    "multiclass_sparsemax_loss": "class",
    "sigmoid_focal_loss": "bit",
    "softmax_focal_loss": "distribution",
    "hinge_loss": "sign",
    "squared_hinge_loss": "sign",
    "perceptron_loss": "sign",
    "soft_margin_loss": "sign",
    "multiclass_hinge_loss": "class",
    "multiclass_perceptron_loss": "class",
    "multi_margin_loss": "class",
    "kl_divergence": "distribution",
    "generalized_kl_divergence": "distribution",
    "linear_softmax_cross_entropy": "token",
}
