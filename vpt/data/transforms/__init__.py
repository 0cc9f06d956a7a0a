"""What is done to images, and to the boxes in them, between the file and the model."""
