module github.com/harebus/harebus/zstd

go 1.26

replace github.com/harebus/harebus => ../

require (
	github.com/harebus/harebus v0.0.0
	github.com/klauspost/compress v1.20.4
)

require (
	github.com/cenkalti/backoff/v4 v4.3.0 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/rabbitmq/amqp091-go v1.16.0 // indirect
	go.uber.org/multierr v1.10.0 // indirect
	go.uber.org/zap v1.28.0 // indirect
)
