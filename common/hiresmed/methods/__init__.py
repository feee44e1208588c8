"""One folder for each method, and the sampling that both unconditional ones share."""
