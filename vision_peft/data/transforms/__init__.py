"""From decoded images and clips to what a model takes."""
