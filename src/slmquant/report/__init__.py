"""How results are shown: a terminal table, files for other programs, and one page for people.

Every form shows the same sections (`_sections`), columns (`_columns`) and words (`_words`).
"""
