"""Losses for JAX: where deletes, weights repeat, and a loss is a sum you can split."""

from jaxloss.core.inputs import checked as checked
from jaxloss.core.reductions import unit_mean as unit_mean
from jaxloss.core.reductions import unit_stats as unit_stats
from jaxloss.core.statistics import Concat as Concat
from jaxloss.core.statistics import Deferred as Deferred
from jaxloss.core.statistics import Mean as Mean
from jaxloss.core.statistics import Statistic as Statistic
from jaxloss.core.statistics import Sum as Sum
from jaxloss.core.statistics import merge as merge
from jaxloss.core.statistics import stats as stats
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
