"""Other libraries' names, arguments and reductions over the losses of this one."""
