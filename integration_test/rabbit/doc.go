// Package rabbit gets a real RabbitMQ for a test, and breaks it on request.
//
// [Start] looks for a broker in this order: the one AMQP_URL names; a private node of an installed rabbitmq-server; a
// container. What it returns is a [Node] in all three cases. A private node can also be killed, started again on the
// same data, paused, resumed and commanded with rabbitmqctl; it can speak TLS with certificates made for it, carry
// extra configuration, and be one of several in a cluster (see [StartCluster]).
//
// A private node listens on 127.0.0.1 only, on ports below the ephemeral range that no other node of this package
// has, with a data folder of its own. When it is closed, or when the test's process ends in any other way, its
// processes and its folder go too.
//
// Variables that steer it:
//
//	AMQP_URL                the broker to use; one that does not answer is an error, never a reason to look further
//	HAREBUS_RABBITMQ_ROOT   a folder with a whole Debian in which the rabbitmq-server to use is installed (see
//	                        scripts/rabbitmq-root); it is run through chroot, which takes root
//	HAREBUS_RABBITMQ_IMAGE  the container image, default "rabbitmq:4"
//	HAREBUS_REQUIRE_BROKER  when 1 (or when CI is true), [Need] fails a test that finds no broker instead of skipping it
package rabbit
