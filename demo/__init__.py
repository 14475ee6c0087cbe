"""A simulated UR10e cell: it records real rosbag2 bags, and closes the loop with the policy trained from them."""
