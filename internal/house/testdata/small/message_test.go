package small

func (s *Setup) inATest() {}
