"""What a run folder tells a reader: tables, pictures, an honest account of savings."""

from gptjax.reporting.benchmarks import write_benchmarks as write_benchmarks
from gptjax.reporting.classification import (
    print_classification as print_classification,
)
from gptjax.reporting.classification import (
    write_classification as write_classification,
)
from gptjax.reporting.comparison import print_comparison as print_comparison
from gptjax.reporting.comparison import read_comparison as read_comparison
from gptjax.reporting.comparison import write_comparison as write_comparison
from gptjax.reporting.connectivity import print_connectivity as print_connectivity
from gptjax.reporting.connectivity import write_connectivity as write_connectivity
from gptjax.reporting.curve import print_curve as print_curve
from gptjax.reporting.curve import read_curve as read_curve
from gptjax.reporting.curve import write_curve as write_curve
from gptjax.reporting.report import write as write
from gptjax.reporting.robustness import print_robustness as print_robustness
from gptjax.reporting.robustness import write_robustness as write_robustness
from gptjax.reporting.run_folder import Run as Run
from gptjax.reporting.run_folder import read as read
from gptjax.reporting.savings import sentences as sentences
from gptjax.reporting.side_by_side import write_several as write_several
from gptjax.reporting.tables import rich_table as rich_table
from gptjax.reporting.terminal import print_run as print_run
