"""What a run leaves beside its result: preview.png, report.json, metrics.json and the last line."""

from .case_evaluator import CaseEvaluator
from .case_report import CaseContent, CaseReport
from .metrics_file import MetricsFile
from .volume_content import VolumeContent
