"""The demo: real parts on loopback, a story told with them, and who watches.

broker      mosquitto or amqtt, in a process of its own
device      the agent, in a process of its own
programs    programs on the device that hand in numbered events
stage       all the parts together, and what can be seen of them
pace        how long the story takes
story       what happens: arrivals, an outage, a kill -9, the drain, the balance
balance     whether all that was acknowledged arrived; pure
scene       what there is to see at one moment; pure
lines view  the scene as lines, and as a live view; they only look
"""
