"""What tests and experiments share: comparisons, and tiny models in the published layout."""
