"""What is locked into the image, by version and hash, and its licences."""
