"""Reports: tables on the terminal, files for other programs, and an HTML page.

All of them show the same sections (`_sections`), columns (`_columns`) and sentences (`_words`).
"""
