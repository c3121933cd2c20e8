"""Which items lie near one another, and how good that is: neighbours, retrieval metrics, few-shot episodes."""
