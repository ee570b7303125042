"""Reading and writing images of 8 and 16 bits with their metadata, and videos; written all or nothing."""
