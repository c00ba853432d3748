"""What a table of runs says: overfitting, fits, predictions, and advice; ours or anybody's."""
