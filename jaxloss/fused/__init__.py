"""Block engines: the same mathematics without the largest intermediate."""

from jaxloss.fused.schedules import Plan as Plan
from jaxloss.fused.schedules import plan as plan
