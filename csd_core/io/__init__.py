"""Files in and out: pictures of 8 and 16 bits with what comes with them, written all or nothing."""
