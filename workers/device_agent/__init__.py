"""The process that runs on a volunteer's device: it enrols, trains and submits."""
