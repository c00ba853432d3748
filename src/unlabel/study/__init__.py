"""A study: runs over models, amounts of data and lengths, the table of them, and what it says."""
