"""What people see of a run: its folder read back, one self-contained page, a terminal table, exports."""

from shoal.report.export import to_csv, to_parquet, to_tensorboard
from shoal.report.folder import NotARun, RunFolder, discover, tasks
from shoal.report.page import write_report
from shoal.report.table import compare, summary_table

__all__ = [
    "NotARun",
    "RunFolder",
    "compare",
    "discover",
    "summary_table",
    "tasks",
    "to_csv",
    "to_parquet",
    "to_tensorboard",
    "write_report",
]
