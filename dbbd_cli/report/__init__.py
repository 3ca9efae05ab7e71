"""Figures, tables and the HTML report, from run folders alone. No torch."""
