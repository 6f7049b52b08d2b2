//! Behaviour of two halves over a network that loses, repeats, delays and cuts.
