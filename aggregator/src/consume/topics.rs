//! Making the topics: all settings of the design, in one place.
