"""Pure measures of features and pixels, and the networks that give the features."""
