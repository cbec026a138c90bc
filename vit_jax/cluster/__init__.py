"""The machines: hosts that run one command, devices and how arrays lie on them, preemption."""
