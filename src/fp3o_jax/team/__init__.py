"""Networks of all agents, who shares what, and the optimiser of shared parameters."""
