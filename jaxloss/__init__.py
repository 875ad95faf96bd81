"""Losses for JAX: where deletes, weights repeat, and a loss is a sum you can split."""

from jaxloss import fused as fused
from jaxloss.core.checks import checked as checked
from jaxloss.core.reductions import unit_mean as unit_mean
from jaxloss.core.reductions import unit_stats as unit_stats
from jaxloss.core.statistics import Concat as Concat
from jaxloss.core.statistics import Deferred as Deferred
from jaxloss.core.statistics import Mean as Mean
from jaxloss.core.statistics import Statistic as Statistic
from jaxloss.core.statistics import Sum as Sum
from jaxloss.core.statistics import merge as merge
from jaxloss.core.statistics import stats as stats
from jaxloss.fused.linear import linear_binary_cross_entropy as linear_binary_cross_entropy
from jaxloss.fused.linear import linear_js_divergence as linear_js_divergence
from jaxloss.fused.linear import linear_kl_divergence as linear_kl_divergence
from jaxloss.fused.linear import linear_softmax_cross_entropy as linear_softmax_cross_entropy
from jaxloss.fused.linear import linear_token_log_probs as linear_token_log_probs
from jaxloss.loop.checkpoint import Checkpoints as Checkpoints
from jaxloss.loop.diagnose import Diagnosis as Diagnosis
from jaxloss.loop.diagnose import Finding as Finding
from jaxloss.loop.diagnose import diagnose as diagnose
from jaxloss.loop.evaluate import make_eval_step as make_eval_step
from jaxloss.loop.evaluate import pad_batch as pad_batch
from jaxloss.loop.fit import fit as fit
from jaxloss.loop.history import History as History
from jaxloss.loop.minimize import Minimum as Minimum
from jaxloss.loop.minimize import minimize as minimize
from jaxloss.loop.nonfinite import NonFiniteError as NonFiniteError
from jaxloss.loop.stopping import EarlyStop as EarlyStop
from jaxloss.loop.tensorboard import tensorboard as tensorboard
from jaxloss.losses.binary import binary_cross_entropy as binary_cross_entropy
from jaxloss.losses.binary import sigmoid_binary_cross_entropy as sigmoid_binary_cross_entropy
from jaxloss.losses.binary import sparsemax_loss as sparsemax_loss
from jaxloss.losses.contrastive import clip_loss as clip_loss
from jaxloss.losses.contrastive import contrastive_loss as contrastive_loss
from jaxloss.losses.contrastive import info_nce_loss as info_nce_loss
from jaxloss.losses.contrastive import ntxent as ntxent
from jaxloss.losses.contrastive import siglip_loss as siglip_loss
from jaxloss.losses.contrastive import supcon_loss as supcon_loss
from jaxloss.losses.detection import giou_loss as giou_loss
from jaxloss.losses.distillation import distillation_loss as distillation_loss
from jaxloss.losses.divergence import generalized_kl_divergence as generalized_kl_divergence
from jaxloss.losses.divergence import js_divergence as js_divergence
from jaxloss.losses.divergence import kl_divergence as kl_divergence
from jaxloss.losses.divergence import (
    kl_divergence_with_log_targets as kl_divergence_with_log_targets,
)
from jaxloss.losses.imbalance import sigmoid_focal_loss as sigmoid_focal_loss
from jaxloss.losses.imbalance import softmax_focal_loss as softmax_focal_loss
from jaxloss.losses.likelihood import gaussian_nll_loss as gaussian_nll_loss
from jaxloss.losses.likelihood import poisson_nll_loss as poisson_nll_loss
from jaxloss.losses.margin import cosine_embedding_loss as cosine_embedding_loss
from jaxloss.losses.margin import hinge_embedding_loss as hinge_embedding_loss
from jaxloss.losses.margin import hinge_loss as hinge_loss
from jaxloss.losses.margin import multi_margin_loss as multi_margin_loss
from jaxloss.losses.margin import multiclass_hinge_loss as multiclass_hinge_loss
from jaxloss.losses.margin import multiclass_perceptron_loss as multiclass_perceptron_loss
from jaxloss.losses.margin import multilabel_margin_loss as multilabel_margin_loss
from jaxloss.losses.margin import multilabel_soft_margin_loss as multilabel_soft_margin_loss
from jaxloss.losses.margin import perceptron_loss as perceptron_loss
from jaxloss.losses.margin import soft_margin_loss as soft_margin_loss
from jaxloss.losses.margin import squared_hinge_loss as squared_hinge_loss
from jaxloss.losses.metric import arcface_loss as arcface_loss
from jaxloss.losses.metric import center_loss as center_loss
from jaxloss.losses.metric import circle_loss as circle_loss
from jaxloss.losses.metric import cosface_loss as cosface_loss
from jaxloss.losses.metric import island_loss as island_loss
from jaxloss.losses.metric import sphereface_loss as sphereface_loss
from jaxloss.losses.metric import triplet_margin_loss as triplet_margin_loss
from jaxloss.losses.multiclass import categorical_cross_entropy as categorical_cross_entropy
from jaxloss.losses.multiclass import generalized_cross_entropy as generalized_cross_entropy
from jaxloss.losses.multiclass import multiclass_sparsemax_loss as multiclass_sparsemax_loss
from jaxloss.losses.multiclass import nll_loss as nll_loss
from jaxloss.losses.multiclass import poly_loss_cross_entropy as poly_loss_cross_entropy
from jaxloss.losses.multiclass import softmax_cross_entropy as softmax_cross_entropy
from jaxloss.losses.multiclass import (
    softmax_cross_entropy_with_integer_labels as softmax_cross_entropy_with_integer_labels,
)
from jaxloss.losses.multitask import uncertainty_weighted_loss as uncertainty_weighted_loss
from jaxloss.losses.multitask import weighted_sum_loss as weighted_sum_loss
from jaxloss.losses.ranking import margin_ranking_loss as margin_ranking_loss
from jaxloss.losses.ranking import pairwise_logistic_loss as pairwise_logistic_loss
from jaxloss.losses.ranking import ranking_softmax_loss as ranking_softmax_loss
from jaxloss.losses.regression import absolute_error as absolute_error
from jaxloss.losses.regression import absolute_percentage_error as absolute_percentage_error
from jaxloss.losses.regression import cosine_distance as cosine_distance
from jaxloss.losses.regression import cosine_similarity as cosine_similarity
from jaxloss.losses.regression import huber_loss as huber_loss
from jaxloss.losses.regression import l2_loss as l2_loss
from jaxloss.losses.regression import log_cosh as log_cosh
from jaxloss.losses.regression import quantile_loss as quantile_loss
from jaxloss.losses.regression import root_mean_squared_error as root_mean_squared_error
from jaxloss.losses.regression import smooth_l1_loss as smooth_l1_loss
from jaxloss.losses.regression import squared_error as squared_error
from jaxloss.losses.regression import squared_logarithmic_error as squared_logarithmic_error
from jaxloss.losses.segmentation import batch_binary_dice_loss as batch_binary_dice_loss
from jaxloss.losses.segmentation import batch_dice_loss as batch_dice_loss
from jaxloss.losses.segmentation import (
    batch_generalized_dice_loss as batch_generalized_dice_loss,
)
from jaxloss.losses.segmentation import batch_tversky_loss as batch_tversky_loss
from jaxloss.losses.segmentation import binary_dice_loss as binary_dice_loss
from jaxloss.losses.segmentation import dice_loss as dice_loss
from jaxloss.losses.segmentation import generalized_dice_loss as generalized_dice_loss
from jaxloss.losses.segmentation import tversky_loss as tversky_loss
from jaxloss.losses.sequence import ctc_loss as ctc_loss
from jaxloss.losses.sequence import ctc_loss_with_forward_probs as ctc_loss_with_forward_probs
from jaxloss.parts.angular import arcface_logits as arcface_logits
from jaxloss.parts.angular import cosface_logits as cosface_logits
from jaxloss.parts.angular import sphereface_logits as sphereface_logits
from jaxloss.parts.centers import update_centers as update_centers
from jaxloss.parts.distances import pairwise_cosine_similarities as pairwise_cosine_similarities
from jaxloss.parts.distances import pairwise_distances as pairwise_distances
from jaxloss.parts.fenchel_young import make_fenchel_young_loss as make_fenchel_young_loss
from jaxloss.parts.pairs import easy_positives as easy_positives
from jaxloss.parts.pairs import hard_negatives as hard_negatives
from jaxloss.parts.pairs import negative_pairs as negative_pairs
from jaxloss.parts.pairs import positive_pairs as positive_pairs
from jaxloss.parts.pairs import semi_hard_negatives as semi_hard_negatives
from jaxloss.parts.targets import class_balanced_weights as class_balanced_weights
from jaxloss.parts.targets import next_token_targets as next_token_targets
from jaxloss.parts.targets import smooth_labels as smooth_labels
from jaxloss.sharded.contrastive import sharded_clip_loss as sharded_clip_loss
from jaxloss.sharded.contrastive import sharded_siglip_loss as sharded_siglip_loss
from jaxloss.sharded.cross_entropy import (
    sharded_linear_softmax_cross_entropy as sharded_linear_softmax_cross_entropy,
)
from jaxloss.sharded.cross_entropy import (
    sharded_softmax_cross_entropy as sharded_softmax_cross_entropy,
)
from jaxloss.train.gradient import value_and_grad as value_and_grad
from jaxloss.train.models import from_equinox as from_equinox
from jaxloss.train.models import from_linen as from_linen
from jaxloss.train.models import from_nnx as from_nnx
from jaxloss.train.objective import Aux as Aux
from jaxloss.train.per_example import per_example as per_example
from jaxloss.train.per_term import gradnorm as gradnorm
from jaxloss.train.per_term import pcgrad as pcgrad
from jaxloss.train.precision import Precision as Precision
from jaxloss.train.step import TrainState as TrainState
from jaxloss.train.step import TrainStep as TrainStep
from jaxloss.train.step import make_train_step as make_train_step
