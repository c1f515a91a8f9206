"""Schedules: when a task is due again and again. Pure: times are arguments, nothing here waits or sends."""
