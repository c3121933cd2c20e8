"""What training and inference cost: speed of the data pipeline and of updates, and tables of what each method costs."""
