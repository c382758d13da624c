//! Services of Windows, which there are none of here.
