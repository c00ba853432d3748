"""A study: runs over models, amounts of data and lengths, and the table of them."""
