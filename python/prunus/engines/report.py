"""What `export` tells."""

from __future__ import annotations

from prunus._tools.report import Column, Report

__all__ = ["ExportReport"]


class ExportReport(Report):
    """What `export` wrote; one row per batch on which the answers of the file were checked.

    Row: sizes (the free ones, "batch 4, length 12", or the shapes), error (relative, L2, the largest of all
    outputs, against the model in torch with all layers unpacked, float32), model_error (against the model as
    it was given: what low precision in it rounds differently is in there). Summary: to, path, dtype, inputs
    (name -> names of its free sizes, "-" for a fixed one), outputs, unpacked (packed layers that became dense
    ones), bytes_model (as given), bytes_file, error and model_error (the largest), engine (name and version),
    note.
    """

    title = "Answers of the exported file"
    columns = (
        Column("sizes"),
        Column("error", "error to the\nunpacked model", ".2g"),
        Column("model_error", "error to the\nmodel", ".2g"),
    )

    def summary_line(self) -> str:
        """One sentence on the file."""
        s = self.summary
        inputs = ", ".join(f"{name} ({', '.join(axes)})" for name, axes in s["inputs"].items())
        line = f"Wrote {s['path']}: {s['bytes_file'] / 1e6:.2f} MB in {s['dtype']}, "
        line += f"the model here has {s['bytes_model'] / 1e6:.2f} MB"
        if s["unpacked"]:
            line += f" with {s['unpacked']} packed layer{'s' * (s['unpacked'] != 1)}"
        line += f"; inputs {inputs}; outputs {', '.join(s['outputs'])}; checked in {s['engine']}"
        return f"{line}. {s['note']}".rstrip() if s["note"] else f"{line}."
