"""ZenML stacks as files: what a stack is made of, and what each stage of a pipeline asks of it.

`schema` reads the files beside it, `values` what a site adds to one, `register` makes ZenML hold the result, `check`
says what is missing, and `launching` turns the stages into ZenML's settings for the steps of a pipeline.
"""
