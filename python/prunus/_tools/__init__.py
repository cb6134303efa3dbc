"""Arrays, files, progress, timing, running, tables: nothing about pruning."""
