"""Problems (between whom a method distils), class selections, and the base of a task."""
