"""WHAT PEOPLE READ: statistics, tables, figures, pages. No torch."""
