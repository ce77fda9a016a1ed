"""Pictures of what a hook gave beside untiled: drawn by the judge, kept in the folder of the run.

They decide nothing. A run has the same records with and without them.
"""
