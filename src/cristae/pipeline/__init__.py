"""One run: every stage in order, each judged alone, with its provenance."""

from cristae.pipeline.config import STAGES, RunConfig, Running
from cristae.pipeline.stages import report_run, run

__all__ = ["STAGES", "RunConfig", "Running", "report_run", "run"]
