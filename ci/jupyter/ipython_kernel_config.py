"""Every kernel on this machine talks to its front end over TCP; its own warning about that is left out."""

import logging

logging.getLogger("IPKernelApp").addFilter(lambda record: "TCP without encryption" not in record.getMessage())
