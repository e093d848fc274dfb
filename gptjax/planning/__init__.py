"""What a run will take, told before it starts: by compilers, without their chips."""

from gptjax.planning.planner import Plan as Plan
from gptjax.planning.planner import plan as plan
from gptjax.planning.terminal import print_plan as print_plan
from gptjax.planning.writing import write as write
