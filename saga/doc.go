// Package saga keeps the state of a process that takes several messages, such as an order
// that waits for its payment. Messages start an instance and continue it; each instance has a
// key, such as the number of the order, and a state, a struct that is kept as JSON.
//
//	err := saga.Register(setup, saga.Config{Name: "order", Store: saga.SQL()},
//		saga.Start(func(m OrderPlaced) string { return m.Order }, func(ctx context.Context, o *saga.Instance[Order], m OrderPlaced) error {
//			o.State.Total = m.Total
//			return o.Timeout(ctx, 24*time.Hour, PaymentLate{})
//		}),
//		saga.On(func(m Paid) string { return m.Order }, func(ctx context.Context, o *saga.Instance[Order], m Paid) error {
//			o.Complete()
//			return o.Send(ctx, "shipping", ShipOrder{o.Key})
//		}),
//		saga.OnTimeout(func(ctx context.Context, o *saga.Instance[Order], _ PaymentLate) error {
//			o.Complete()
//			return o.Publish(ctx, "order.cancelled", OrderCancelled{o.Key})
//		}))
//
// State, messages and timeouts of one step are committed together, in the transaction of the
// endpoint's Transactor, such as an outbox. Steps of one instance run one after the other,
// because the row of the instance is locked; those of different instances run side by side.
// docs/sagas.md says what is promised and what is not. Package sagatest runs a saga in
// virtual time.
package saga
