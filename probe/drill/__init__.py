"""A failover drill over running agents: steady state, trigger, recovery, report (`run.drill_command`)."""
