"""What each node computes. One file per feature, named as its nodes/ file."""
