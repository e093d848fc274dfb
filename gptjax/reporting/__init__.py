"""What a run folder tells a reader: tables, pictures, an honest account of savings."""

from gptjax.reporting import comparison as comparison
from gptjax.reporting import connectivity as connectivity
from gptjax.reporting.report import write as write
from gptjax.reporting.run_folder import Run as Run
from gptjax.reporting.run_folder import read as read
from gptjax.reporting.savings import sentences as sentences
from gptjax.reporting.tables import markdown as markdown
from gptjax.reporting.tables import rich_table as rich_table
from gptjax.reporting.terminal import print_run as print_run
