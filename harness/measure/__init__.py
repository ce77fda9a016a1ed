"""Run one case and say in numbers how its result differs from the untiled one."""
