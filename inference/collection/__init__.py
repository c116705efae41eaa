"""Collections: any number of images in as many memories as they take, and recall by content from all of them."""
