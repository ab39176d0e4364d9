"""How launches are timed: `blocks` decides what is timed when and for how long, the other files how, one a method."""
