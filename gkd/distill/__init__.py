"""One step's losses: student, teacher, terms, routing."""
